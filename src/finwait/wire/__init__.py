"""Bytes and text become records and back. Nothing here opens anything."""
