"""What all tests share."""

from hypothesis import settings

settings.register_profile("finwait", deadline=None)  # how fast a machine is proves nothing
settings.load_profile("finwait")
