"""The protocol of a task that is a question and an exact answer."""

PROTOCOL = """
[riddle]
rule = "exact"
paper_rule = "exact"
shots = 0
lines = ["{question}", "Answer:"]
optional = []
max_new_tokens = 8
demonstrations = []
"""
