"""Facts of each model family that follow from the config: one file per family, one line in the table FACTS."""

from cola_jax.config.families import ar, cola, llada, plaid, text_vae
from cola_jax.config.families.facts import Facts

FACTS: dict[str, Facts] = {
    "text_vae": text_vae.FACTS,
    "cola": cola.FACTS,
    "ar": ar.FACTS,
    "llada": llada.FACTS,
    "plaid": plaid.FACTS,
}
