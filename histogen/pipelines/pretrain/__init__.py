"""``histogen pretrain``: DINO and Gen-DINO."""
