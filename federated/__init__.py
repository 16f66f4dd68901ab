"""Federated training: hospitals train one network together, and their scans stay where they are (docs/federated.md)."""
