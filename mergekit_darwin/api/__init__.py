"""What the package does, as Python functions; the commands call these and print.

Importing it loads neither torch nor mergekit: that happens inside a call. Models are
folders, hub names or `model+adapter`, as in a merge configuration. Whatever the caller
can repair raises DarwinError, whose text is one line.
"""
