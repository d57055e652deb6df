"""Teachers that are asked: what is asked, how an API answers, what its answers may cost."""
