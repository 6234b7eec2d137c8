"""The revisions of the schema, each a frozen script."""
