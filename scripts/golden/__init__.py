"""The parts of make_golden.py: models, adapters, references and their files."""
