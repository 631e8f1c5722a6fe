"""What must survive a restart: SQLite through sqlite-utils, one file, one owner thread.

``database`` owns the file and the thread; ``audit``, ``inventory``, ``accounts``, ``outbox`` and ``cache`` each own
their tables in it. Nothing here decides anything. Every write has reached the disk when its call returns.
"""
