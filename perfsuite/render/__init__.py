"""One result, three media: ``blocks`` say what is shown, ``terminal``, ``markdown`` and ``html`` how."""
