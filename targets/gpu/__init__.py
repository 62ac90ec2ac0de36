"""What GPUs of all makers share: their facts, templates, generic rules, and how device code joins host code."""
