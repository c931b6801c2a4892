"""Makes the emulator misbehave on demand, as platforms and networks do."""
