"""The optional HTTP application: ingest, admin, inventory, health, a dashboard."""
