"""Policy and state machines, pure: no clock, no message, no thread and no device may be here."""
