"""A corpus made from raw text: shards of documents, and stages that make others."""
