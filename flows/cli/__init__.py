"""The ``mfer`` command: one module for each group of commands; open ``main.py`` first.

May import everything, inside the commands only, so that help is quick; nothing imports it.
"""
