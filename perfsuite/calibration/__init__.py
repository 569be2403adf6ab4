"""How often the gate is wrong: real suite runs, the rules that people use today, and what each makes of them."""
