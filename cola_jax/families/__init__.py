"""The table of model families; train, evaluate and sweep know them through it alone."""

from cola_jax.families import ar, cola, llada, plaid, text_vae
from cola_jax.families.family import Family as Family

FAMILIES: dict[str, Family] = {
    "text_vae": text_vae.FAMILY,
    "cola": cola.FAMILY,
    "ar": ar.FAMILY,
    "llada": llada.FAMILY,
    "plaid": plaid.FAMILY,
}
