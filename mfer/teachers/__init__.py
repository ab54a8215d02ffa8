"""Networks that were trained on a million faces to know them apart, as teachers of expressions.

Both are read from packages that their makers publish, trained on expressions with ``mfer train --recipe
ferplus_teacher`` and asked by distillation (``mfer.distill``). Nothing here is needed to use a model. Start with
``faceres.py``; ``files.py`` says where the weights come from. ``identity.py`` uses dlib's network for what it was made
for: to tell whether two faces are one person's, which happens only when somebody asks for it.
"""
