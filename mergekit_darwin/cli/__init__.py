"""The commands: thin click shells; heavy imports live in their bodies."""
