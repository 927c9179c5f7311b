"""The web console, `levelq console`: see application.py for its pages and acts. It needs `levelq[console]`."""
