"""The four commands: thin click shells; heavy imports live in the command bodies."""
