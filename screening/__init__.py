"""Load a trained model and screen scans with it: what predict.py and app.py share."""
