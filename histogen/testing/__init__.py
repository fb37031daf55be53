"""Contract tests that a plug-in author can run against a slide reader, a store or an encoder."""
