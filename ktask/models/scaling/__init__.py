"""Laws of scaling, fitted to measured curves, and what they predict for more threads.

`table.read_curves` reads a tidy table; `predict.predict_curve`, `predict_table` and `predict_sizes`
predict it, `scores.predict_file` and `score_folder` score that; `explain.explain` says which law fits,
`forecast.forecast` looks at larger machines. `laws` and `learn` hold the laws and their priors,
`posterior.fit` weighs them.
"""
