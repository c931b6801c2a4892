"""Pages for people at ``/console`` of the emulator's own port, rendered on the server, readable without a script."""
