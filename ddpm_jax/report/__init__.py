"""The page an ablation of the reverse variance leaves behind: tables, claims, figures.

Reading order: `lookup` finds the rows of results.json, `claims` judges them, `tables` puts them into words and tables,
`figures` draws them as charts (`charts`), `images` shows samples, `published` has other people's tables, `page` binds.
Nothing here computes a likelihood or a distance: every number comes from the results.
"""
