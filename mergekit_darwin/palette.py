"""One set of colours for pictures and pages."""

FATHER, MOTHER, CHILD, OTHER = "#1f5fa8", "#b8322a", "#222222", "#8a8a8a"
ROLES = {"father": FATHER, "mother": MOTHER, "child": CHILD}
NOTE, WARNING, ERROR, SOUND = "#999999", "#e69f00", "#cc0033", "#007a5a"
PARENTS = (FATHER, "#8fb5d9", "#f4f3ee", "#e8a48a", MOTHER)  # by way of neither
