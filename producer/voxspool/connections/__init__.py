"""Connections to Redis: one server, Sentinels, name spaces, and what happens after a failover."""
