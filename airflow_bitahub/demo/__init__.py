"""The laptop demo: what it needs besides the provider and the emulator."""
