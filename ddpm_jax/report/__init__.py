"""The page an ablation of the reverse variance leaves behind: tables, claims, figures.

Reading order: `table` finds the rows of results.json, `claims` judges them, `printed` puts them into words and tables,
`figures` and `bound_figures` draw them as charts (`chart`), `interactive` makes those SVG, `mosaics` shows samples,
`page` binds. Nothing here computes a likelihood or a distance: every number comes from the results.
"""
