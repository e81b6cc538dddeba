"""How a page is tried: looked at (`structure`), and played in a real browser (`browser`).

structure   what can be told from the text: contract, one file, no network, no dialog, no storage
browser     the host's side: finds a Chromium, starts the player in a process of its own, ends it
player      the player's process: opens the page without a network, at two widths, and plays
board       the page as the player sees and touches it: its elements, real clicks, real keys
checks      the rules, each played
"""
