"""Sharing on the Hugging Face Hub: selections, signals and models as versions with their lineage."""
