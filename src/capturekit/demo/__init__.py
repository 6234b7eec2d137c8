"""Simulated shelf cameras whose truth is known, and the verdict on what the ledger made of it."""
