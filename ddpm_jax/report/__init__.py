"""The page an ablation of the reverse variance leaves behind: tables, claims, figures.

Reading order: `table` finds the rows of results.json, `claims` judges them, `figures` and `mosaics` draw, `page` binds.
Nothing here computes a likelihood or a distance: every number comes from the results.
"""
