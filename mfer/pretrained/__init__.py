"""Networks that were trained on a million faces to know them apart.

Both are read from packages that their makers publish. ``faceres.py`` is the backbone of the architecture
``mfer_faceres`` and a teacher of expressions; ``dlib_resnet.py`` is another teacher (``mfer.distill``). ``files.py``
says where the weights come from: they are needed where training starts, never to use a model. ``identity.py`` uses
dlib's network for what it was made for: to tell whether two faces are one person's, which happens only when somebody
asks for it.
"""
