"""Door: HTTP. Routes are declared once; keys, limits and wording are the same for all; one module a resource."""
