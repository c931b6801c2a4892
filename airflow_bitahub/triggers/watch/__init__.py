"""One watcher for each connection and event loop queries the platform for all triggers that wait there.

Imports run one way: journal <- waiter <- schedule, listing, shared_hook <- watcher.
"""
