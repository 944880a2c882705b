"""Words for people: messages in several languages, the escaper of foreign strings, character widths."""
