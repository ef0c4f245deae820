"""PPO with KL control. Read `config`, then `trainer`, then `cai.train.losses`: settings, order of
an update, formulas.

The papers: InstructGPT (arXiv:2203.02155, section 3.5), Ziegler et al. (arXiv:1909.08593), PPO
(arXiv:1707.06347), GAE (arXiv:1506.02438).
"""
