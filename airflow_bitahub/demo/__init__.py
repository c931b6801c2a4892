"""The laptop demo: everything it needs besides the provider and the emulator."""
