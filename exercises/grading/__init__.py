"""Grade submissions with nbgrader's own steps, their code in limited processes. Linux; see exercises/README.md.

This stands outside `lrtut`, because it needs nbgrader, which no learner installs: `uv run --group classroom …`.
"""
