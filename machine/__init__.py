"""The machine a program runs on: its cores, its memory, its worker processes, and how a program starts and ends."""
