"""Pages for people, on the emulator's own port below ``/console``: rendered on the server, readable without a script."""
