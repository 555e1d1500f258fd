"""How fast and how large models are where they run: `python -m zqc.bench MODEL [--against MODEL] ...`."""
