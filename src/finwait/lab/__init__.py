"""Real TCP sockets in any state, in a network namespace of their own, against a scripted peer."""
