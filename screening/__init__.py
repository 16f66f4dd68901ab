"""From one scan to an answer: a trained model loaded, and what predict.py and app.py both ask of it."""
