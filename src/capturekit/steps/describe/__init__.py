"""The step ``describe``: a vision-language model behind any OpenAI-compatible endpoint."""

from capturekit.steps.describe.answer import Answer, DescribedItem, Scene
from capturekit.steps.describe.budget import Budget
from capturekit.steps.describe.cache import Cache
from capturekit.steps.describe.client import Runtime
from capturekit.steps.describe.errors import (
    BadAnswer,
    BudgetExhausted,
    ProviderBusy,
    ProviderFailed,
    ProviderRefused,
)
from capturekit.steps.describe.provider import Provider
from capturekit.steps.describe.step import Describe, Description

__all__ = [
    "Answer",
    "BadAnswer",
    "Budget",
    "BudgetExhausted",
    "Cache",
    "Describe",
    "DescribedItem",
    "Description",
    "Provider",
    "ProviderBusy",
    "ProviderFailed",
    "ProviderRefused",
    "Runtime",
    "Scene",
]
