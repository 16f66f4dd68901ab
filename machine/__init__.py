"""The machine a program runs on: its cores, its memory, and how a program starts and ends."""
