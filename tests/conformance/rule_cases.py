"""Every rule LKnnn, and how the real trainer proves it: the trials to record and what they have to show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tests.conformance.rule_trials import (
    Claim,
    Differs,
    Fails,
    Less,
    Nothing,
    Proof,
    Ratio,
    Same,
    Shows,
    Trains,
    Trial,
    ignored,
    own,
    proven,
    refused,
)  # fmt: skip

__all__ = ["FACTS", "PROOFS", "TRIALS"]

_PARSER, _EARLY, _LATE, _LOOP = "parser", "before the model", "after the model", "in the loop"


def _t(
    keys: Mapping[str, Any] | None = None, scene: str = "", *raw: str, instead: Mapping[str, Any] | None = None
) -> Trial:
    return Trial(keys or {}, scene, instead or {}, raw)


def _each(common: Mapping[str, Any], *others: Mapping[str, Any], scene: str = "") -> tuple[Trial, ...]:
    return tuple(_t({**common, **other}, scene) for other in others)


def _pairs(common: Mapping[str, Any], *others: Mapping[str, Any], scene: str = "") -> tuple[tuple[Trial, Trial], ...]:
    return tuple((trial, _t(common, scene)) for trial in _each(common, *others, scene=scene))


_PLAIN: Final = _t()
_TE: Final = {"optim.te_lr": 0.1}
_BF16: Final = {"precision.mixed": "bf16"}
_CACHED: Final = {"memory.cache_latents": True}
_TE_CACHED: Final = {"memory.cache_text_encoder_outputs": True}
_UNBUCKETED: Final = {"dataset.bucket": False}
_V: Final = {"base.v_prediction": True}
_SHUFFLED: Final = {"dataset.shuffle_caption": True}
_TOML: Final = {"dataset.config": "{folder}/data.toml"}
_PROMPTS: Final = {"sample.prompts": "{folder}/prompts.txt"}
_LORA: Final = {"network.weights": "{folder}/lora.safetensors"}

_MODEL: Final = (
    ignored("LK002", *_pairs({}, {"base.clip_skip": 2})),
    refused("LK003", "AssertionError", _EARLY, _t({"precision.full": True}, "", "--full_bf16"),
            beside=(_t({**_BF16, "precision.full": True}),)),
    refused("LK004", "AssertionError", _LATE, *_each({}, {"precision.fp8_base": True}, {"precision.fp8_base_unet": True})),
    refused("LK005", "RuntimeError", _LOOP, _t({"precision.mixed": "fp16"}), beside=(_t(_BF16),)),
    refused("LK006", "RuntimeError", _LOOP, *_each(_BF16, {"precision.fp8_base": True}, {"precision.fp8_base_unet": True}),
            beside=(_t(_BF16),)),
    own("LK007", "needs a GPU and the original VAE's weights: on the CPU fp16 fails before any picture shows it (LK005)"),
    proven(
        "LK008",
        Same(_t({**_BF16, "precision.full": True, "optim.unet_lr": 0.01}, "", "--max_train_steps", "1"),
             _t({**_BF16, "precision.full": True, "optim.unet_lr": 0.01}), of="down"),
        Differs(_t({**_BF16, "optim.unet_lr": 0.01}, "", "--max_train_steps", "1"),
                _t({**_BF16, "optim.unet_lr": 0.01}), of="down"),
        speaks=(_t({**_BF16, "precision.full": True, "optim.unet_lr": 0.01}),),
        silent=(_t({**_BF16, "optim.unet_lr": 0.01}),),
    ),
    refused("LK022", "TypeError", _LATE,
            _t({"memory.cpu_offload_checkpointing": True, "memory.gradient_checkpointing": True}),
            beside=(_t({"memory.gradient_checkpointing": True}),)),
    ignored("LK023", *_pairs({}, {"memory.cpu_offload_checkpointing": True})),
    ignored("LK024", (_t({"memory.cache_latents_to_disk": True}), _t({**_CACHED, "memory.cache_latents_to_disk": True}))),
    ignored("LK025", (_t({"memory.cache_text_encoder_outputs_to_disk": True}),
                      _t({**_TE_CACHED, "memory.cache_text_encoder_outputs_to_disk": True}))),
)  # fmt: skip

_CLIPPED: Final = {"optim.max_grad_norm": 0.001}
_ONE_STILL: Final = _t({"optim.te_lr": [0, 0.1], **_CLIPPED}, "", "--text_encoder_lr", "0", "0.1", instead=_TE)

_TRAINED: Final = (
    refused("LK011", "ValueError", _LATE,
            _t({"optim.unet_lr": 0}, "", "--network_train_text_encoder_only", instead={"optim.unet_lr": 0.1})),
    # There in the file, untrained, and the rest is clipped by gradients of what stands still.
    proven("LK013", Shows(_ONE_STILL, "modules.te1", 72), Shows(_ONE_STILL, "moved.te1", 0), Shows(_ONE_STILL, "moved.te2", 0),
           Differs(_ONE_STILL, _t(_CLIPPED), of="effect.unet"),
           speaks=(_ONE_STILL, _t({"optim.te_lr": [0.1, 0]})), silent=(_t(_TE),)),
    ignored("LK014", (_t({"optim.te_lr": [0.1, 0.3]}, "", "--text_encoder_lr", "0.1", "0.3", instead=_TE), _t(_TE)),
            matters=((_t({"optim.te_lr": 0.3}), _t(_TE)),)),
    own("LK015", "of the probe: the trainer has no such thing"),
    refused("LK021", "AssertionError", _EARLY, _t({**_TE, **_TE_CACHED}), beside=(_t(_TE), _t(_TE_CACHED))),
    refused("LK028", "AssertionError", _EARLY,
            *_each(_TE_CACHED, _SHUFFLED, {"dataset.caption_dropout_rate": 0.5}, {"dataset.caption_tag_dropout_rate": 0.5},
                   {"dataset.token_warmup_step": 2.0}), beside=(_t(_SHUFFLED),)),
    ignored("LK029", *_pairs(_TE_CACHED, {"dataset.caption_dropout_every_n_epochs": 1}, {"dataset.caption_prefix": "big"},
                             {"dataset.caption_suffix": "big"}, {"dataset.enable_wildcard": True},
                             {"dataset.secondary_separator": "e"}),
            matters=tuple((trial, _PLAIN) for trial in _each({}, {"dataset.caption_dropout_every_n_epochs": 1},
                                                              {"dataset.caption_prefix": "big"},
                                                              {"dataset.caption_suffix": "big"},
                                                              {"dataset.secondary_separator": "e"}))),
    refused("LK030", "AssertionError", _EARLY, *_each(_CACHED, {"dataset.color_aug": True}, {"dataset.random_crop": True}),
            beside=_each({}, {"dataset.color_aug": True}, {"dataset.random_crop": True})),
)  # fmt: skip

_DATASET: Final = (
    refused("LK031", "AssertionError", _EARLY, _t({"dataset.bucket_step": 48, "dataset.bucket_min": 48, "dataset.bucket_max": 144})),
    refused("LK032", "AssertionError", _EARLY, _t({"dataset.bucket_min": 96})),
    refused("LK033", "AssertionError", _EARLY, _t({"dataset.bucket_max": 32})),
    proven("LK034", Shows(_t({"dataset.bucket_max": 64}, "wide"), "buckets", [[64, 32, 1], [64, 64, 1]]),
           Shows(_t({}, "wide"), "buckets", [[64, 64, 1], [128, 32, 1]]),
           speaks=(_t({"dataset.bucket_max": 64}, "wide"),), silent=(_t({}, "wide"),)),
    ignored("LK035", (_t({"dataset.bucket_min": 40, "dataset.bucket_max": 110}, "wide"), _t({}, "wide"))),
    # Small ones are still not wider than the resolution: LK032 and LK033 hold with it.
    proven("LK036", Same(_t({"dataset.bucket_no_upscale": True, "dataset.bucket_max": 64}, "wide"),
                         _t({"dataset.bucket_no_upscale": True, "dataset.bucket_max": 128}, "wide")),
           Shows(_t({"dataset.bucket_no_upscale": True, "dataset.bucket_max": 64}, "wide"), "buckets", [[64, 64, 1], [128, 32, 1]]),
           speaks=(_t({"dataset.bucket_no_upscale": True, "dataset.bucket_max": 64}, "wide"),),
           silent=(_t({"dataset.bucket_no_upscale": True, "dataset.bucket_min": 256, "dataset.bucket_max": 2048}, "wide"),)),
    ignored("LK037", (_t({**_UNBUCKETED, "dataset.bucket_min": 64, "dataset.bucket_max": 64, "dataset.bucket_step": 32}),
                      _t({**_UNBUCKETED, "dataset.bucket_min": 256, "dataset.bucket_max": 2048, "dataset.bucket_step": 64}))),
    refused("LK038", "RuntimeError", _LOOP, _t({**_UNBUCKETED, **_CACHED, "dataset.resolution": 72}),
            beside=(_t({**_UNBUCKETED, **_CACHED}),)),
    # Of two pictures the wrong one fails when its turn comes, which in two steps is a matter of the seed.
    proven("LK039", Fails(_t(_UNBUCKETED, "large"), "AssertionError", _LOOP), Trains(_t(_UNBUCKETED)),
           Fails(_t(_UNBUCKETED, "small"), "AssertionError", _LOOP),
           Fails(_t({**_UNBUCKETED, "seed": 8}, "odd and right"), "AssertionError", _LOOP),
           Trains(_t(_UNBUCKETED, "odd and right")), Trains(_t({**_UNBUCKETED, "dataset.random_crop": True}, "large")),
           Fails(_t({**_UNBUCKETED, "dataset.random_crop": True}, "small"), "AssertionError", _LOOP),
           Trains(_t({**_UNBUCKETED, **_CACHED}, "large")), Trains(_t({}, "large")),
           speaks=(_t(_UNBUCKETED, "large"), _t(_UNBUCKETED), _t({**_UNBUCKETED, "dataset.random_crop": True}, "small")),
           silent=(_t({**_UNBUCKETED, **_CACHED}, "large"), _t({}, "large"))),
    refused("LK040", "ZeroDivisionError", _EARLY, _t({"dataset.bucket_step": 64}),
            beside=(_t({"dataset.bucket_step": 64, "dataset.bucket_no_upscale": True}), _t({"dataset.bucket_step": 64, "dataset.bucket_min": 64}))),
    ignored("LK042", (_t({**_TOML, "dataset.reg_path": "{folder}/reg"}, "toml and reg"), _t(_TOML, "toml")),
            matters=((_t({"dataset.reg_path": "{folder}/reg"}, "toml and reg"), _PLAIN),)),
    refused("LK051", "AssertionError", _EARLY, _t({"dataset.face_crop_aug_range": "2.0"}),
            _t({"dataset.face_crop_aug_range": "4.0,2.0"}), beside=(_t({"dataset.face_crop_aug_range": "2.0,4.0"}),)),
    ignored("LK052", *_pairs({}, {"dataset.face_crop_aug_range": "2.0,4.0"}, scene="faces"),
            *_pairs(_CACHED, {"dataset.face_crop_aug_range": "2.0,4.0"}, scene="faces"),
            *_pairs({**_UNBUCKETED, **_CACHED}, {"dataset.face_crop_aug_range": "2.0,4.0"}, scene="faces"),
            matters=((_t({**_UNBUCKETED, "dataset.face_crop_aug_range": "2.0,4.0"}, "faces"),
                      _t({**_UNBUCKETED, "dataset.face_crop_aug_range": "1.0,1.2"}, "faces")),)),
    ignored("LK053", *_pairs({}, {"dataset.keep_tokens": 3}),
            matters=((_t({**_SHUFFLED, "dataset.keep_tokens": 3}), _t(_SHUFFLED)),)),
    ignored("LK054", *_pairs({}, {"dataset.token_warmup_min": 3}),
            matters=((_t({"dataset.token_warmup_step": 50.0, "dataset.token_warmup_min": 3}),
                      _t({"dataset.token_warmup_step": 50.0})),)),
    proven("LK056", Same(_t({"dataset.caption_dropout_rate": 1.0}), _t({"dataset.caption_dropout_rate": 1.0}, "other captions")),
           Same(_t({"dataset.caption_dropout_every_n_epochs": 1}),
                _t({"dataset.caption_dropout_every_n_epochs": 1}, "other captions")),
           Differs(_PLAIN, _t({}, "other captions")),
           speaks=_each({}, {"dataset.caption_dropout_rate": 1.0}, {"dataset.caption_dropout_every_n_epochs": 1}),
           silent=_each({}, {"dataset.caption_dropout_rate": 0.5}, {"dataset.caption_dropout_every_n_epochs": 2})),
    refused("LK061", "ValueError", _LATE, _t({"dataset.persistent_workers": True}),
            beside=(_t({"dataset.persistent_workers": True, "dataset.workers": 1}),)),
    proven("LK071", Nothing(_t({"validation.split": 1.0})), Trains(_t({"validation.split": 0.5})),
           speaks=(_t({"validation.split": 1.0}),), silent=(_t({"validation.split": 0.5}),)),
    ignored("LK072", *_pairs({}, {"validation.seed": 3}, {"validation.every_n_epochs": 1}, {"validation.every_n_steps": 1},
                             {"validation.max_steps": 1})),
)  # fmt: skip

_ADAFACTOR: Final = {"optim.type": "AdaFactor"}
_FIXED: Final = {"relative_step": False, "scale_parameter": False, "warmup_init": False}
_BROKEN: Final = {"relative_step": False, "warmup_init": True}
_FREE: Final = {"optim.type": "AdamWScheduleFree", "optim.unet_lr": 1e-3}
_PRODIGY: Final = {"optim.type": "Prodigy", "optim.unet_lr": 1.0}
_WARM: Final = {"optim.warmup": "1 steps"}
_STABLE: Final = {"optim.schedule": "warmup_stable_decay", **_WARM}

_OPTIM: Final = (
    refused("LK102", "ValueError", _LATE, _t(_WARM), beside=(_t({**_WARM, "optim.schedule": "constant_with_warmup"}),)),
    refused("LK103", "AttributeError", _LATE, _t({"optim.type": "radam"}), _t({"optim.type": "NoSuch"}),
            beside=_each({"optim.unet_lr": 1e-3}, {"optim.type": "RAdam"}, {"optim.type": "adamw"})),
    ignored("LK104", *_pairs(_FREE, {"optim.schedule": "linear"}, {"optim.schedule": "cosine", **_WARM})),
    refused("LK105", "ValueError", _LATE, _t({"optim.args": {"momentum": "0.5=1"}}),
            beside=(_t({"optim.args": {"momentum": 0.5}}),)),
    refused("LK108", "ValueError", _LATE, _t({**_ADAFACTOR, **_WARM}),
            beside=(_t({**_ADAFACTOR, **_WARM, "optim.args": _FIXED, "optim.schedule": "constant_with_warmup"}),)),
    proven("LK109", Same(_t(_ADAFACTOR), _t({**_ADAFACTOR, "optim.unet_lr": 0.02})),
           Same(_t(_ADAFACTOR), _t({**_ADAFACTOR, "optim.schedule": "linear"})),
           Differs(_t({**_ADAFACTOR, "optim.args": _FIXED}), _t({**_ADAFACTOR, "optim.args": _FIXED, "optim.unet_lr": 0.02})),
           speaks=_each(_ADAFACTOR, {}, {"optim.unet_lr": 0.02}, {"optim.schedule": "linear"}),
           silent=(_t({**_ADAFACTOR, "optim.args": _FIXED}),)),
    proven("LK110", Same(_t({**_ADAFACTOR, "optim.args": _BROKEN}), _t({**_ADAFACTOR, "optim.args": _BROKEN, "optim.unet_lr": 0.02})),
           Differs(_t({**_ADAFACTOR, "optim.args": _BROKEN}), _t({**_ADAFACTOR, "optim.args": _FIXED})),
           speaks=_each({**_ADAFACTOR, "optim.args": _BROKEN}, {}, {"optim.unet_lr": 0.02}),
           silent=_each(_ADAFACTOR, {}, {"optim.args": _FIXED})),
    proven("LK111", Trains(_t({**_ADAFACTOR, "optim.args": _FIXED})),
           speaks=_each({**_ADAFACTOR, "optim.args": _FIXED}, {}, {"optim.max_grad_norm": 0.0},
                        {"optim.schedule": "constant_with_warmup"}),
           silent=(_t({**_ADAFACTOR, "optim.args": _FIXED, "optim.max_grad_norm": 0.0,
                       "optim.schedule": "constant_with_warmup"}), _t(_ADAFACTOR))),
    proven("LK113", Differs(_t(_PRODIGY), _t({**_PRODIGY, "optim.unet_lr": 0.01})),
           speaks=(_t({**_PRODIGY, "optim.unet_lr": 0.01}),), silent=(_t(_PRODIGY),)),
    refused("LK114", "RuntimeError", _LOOP, _t({**_PRODIGY, "optim.te_lr": 0.5}),
            beside=_each(_PRODIGY, {}, {"optim.te_lr": 1.0})),
    refused("LK115", "RuntimeError", _LOOP, _t({**_PRODIGY, "network.loraplus_lr_ratio": 4.0}),
            _t({**_PRODIGY, "network.up_lr_weight": "cosine"}), beside=_each({}, {"network.loraplus_lr_ratio": 4.0})),
    proven("LK116", Fails(_t({"optim.type": "DAdaptAdam", "optim.unet_lr": 1.0}), "ImportError", _LATE),
           speaks=(_t({"optim.type": "DAdaptAdam", "optim.unet_lr": 1.0}),), silent=(_t(_PRODIGY),)),
    proven("LK120", Fails(_t({"optim.schedule": "no_such"}), "ValueError", _LATE),
           Fails(_t({"optim.schedule": "reduce_lr_on_plateau"}), "TypeError", _LATE),
           Fails(_t({"optim.schedule": "cosine_warmup_with_min_lr"}), "TypeError", _LATE),
           Trains(_t({"optim.schedule": "cosine"})),
           speaks=_each({}, *({"optim.schedule": name} for name in
                              ("no_such", "reduce_lr_on_plateau", "cosine_warmup_with_min_lr"))),
           silent=_each({}, {"optim.schedule": "cosine"})),
    refused("LK121", "AssertionError", _LATE, _t({"optim.schedule": "adafactor:0.001"}),
            beside=(_t({**_ADAFACTOR, "optim.schedule": "adafactor:0.001"}),)),
    refused("LK122", "ValueError", _LATE, _t({"optim.schedule": "cosine_with_min_lr"}),
            beside=(_t({"optim.schedule": "cosine_with_min_lr", "optim.min_lr_ratio": 0.5}),)),
    refused("LK123", "ValueError", _LATE, _t({"optim.schedule": "polynomial", "optim.unet_lr": 1e-7}),
            beside=(_t({"optim.schedule": "polynomial", "optim.unet_lr": 2e-7}),)),
    proven("LK124", Same(_t(_STABLE), _t({"optim.schedule": "constant_with_warmup", **_WARM})),
           Differs(_t({**_STABLE, "length.steps": 4}), _t({**_STABLE, "length.steps": 4, "optim.decay": "2 steps"})),
           speaks=_each(_STABLE, {}, {"optim.decay": "0 steps"}), silent=_each(_STABLE, {"optim.decay": "1 steps"})),
    proven("LK125", Less(_t({"optim.schedule": "linear", "optim.warmup": "9 steps"}), "peak", 0.1),
           speaks=_each({}, {"optim.schedule": "linear", "optim.warmup": "9 steps"},
                        {**_STABLE, "optim.warmup": "60%", "optim.decay": "60%"}),
           silent=_each({}, {"optim.schedule": "linear", **_WARM})),
    ignored("LK127", *_pairs({"optim.schedule": "cosine"}, {"optim.cycles": 3}, {"optim.power": 2.0}, {"optim.timescale": 5},
                             {"optim.min_lr_ratio": 0.5}, {"optim.decay": "1 steps"}),
            matters=((_t({"optim.schedule": "cosine_with_restarts", "optim.cycles": 2, "length.steps": 3}),
                      _t({"optim.schedule": "cosine_with_restarts", "length.steps": 3})),
                     (_t({"optim.schedule": "polynomial", "optim.power": 2.0}), _t({"optim.schedule": "polynomial"})),
                     (_t({"optim.schedule": "inverse_sqrt", "optim.timescale": 5}), _t({"optim.schedule": "inverse_sqrt"})))),
    refused("LK129", "TypeError", _LATE, _t({"optim.schedule": "piecewise_constant"}),
            beside=(_t({"optim.schedule": "piecewise_constant",
                        "extra": {"lr_scheduler_args": ["step_rules='1:1,0.1'"]}}),)),
)  # fmt: skip

_HUBER: Final = {"loss.type": "huber"}
_ZERO_V: Final = {**_V, "loss.zero_terminal_snr": True}
#: One timestep, where the model sees nothing but noise.
_LAST: Final = {**_ZERO_V, "loss.min_timestep": 999, "loss.max_timestep": 1000}

_LOSS: Final = (
    refused("LK140", "ValueError", _EARLY, _t({"loss.adaptive_noise_scale": 0.1}),
            beside=(_t({"loss.adaptive_noise_scale": 0.1, "loss.noise_offset": 0.1}),)),
    ignored("LK141", *_pairs({"loss.noise_offset": 0.0}, {"loss.adaptive_noise_scale": 0.1}),
            matters=((_t({"loss.adaptive_noise_scale": 0.1, "loss.noise_offset": 0.1}), _t({"loss.noise_offset": 0.1})),)),
    ignored("LK142", *_pairs({}, {"loss.multires_noise_discount": 0.9}),
            matters=((_t({"loss.multires_noise_iterations": 2, "loss.multires_noise_discount": 0.9}),
                      _t({"loss.multires_noise_iterations": 2})),)),
    ignored("LK143", *_pairs({}, {"loss.noise_offset_random": True}, {"loss.ip_noise_gamma_random": True}),
            matters=((_t({"loss.noise_offset": 0.1, "loss.noise_offset_random": True}), _t({"loss.noise_offset": 0.1})),
                     (_t({"loss.ip_noise_gamma": 0.1, "loss.ip_noise_gamma_random": True}), _t({"loss.ip_noise_gamma": 0.1})))),
    refused("LK144", "ValueError", _EARLY, _t({"loss.scale_v_pred_like_noise_pred": True}),
            beside=(_t({**_V, "loss.scale_v_pred_like_noise_pred": True}),)),
    refused("LK145", "ValueError", _EARLY, _t({**_V, "loss.v_pred_like": 0.5}), beside=(_t({"loss.v_pred_like": 0.5}), _t(_V))),
    proven("LK146", Differs(_t({"loss.zero_terminal_snr": True}), _PLAIN),
           speaks=(_t({"loss.zero_terminal_snr": True}),), silent=(_t(_ZERO_V),)),
    # SNR / (SNR + 1) of the last timestep: the schedule's own 0.00466, where the rescaled one has 0.
    proven("LK147", Ratio(_t({**_LAST, "loss.min_snr_gamma": 5.0}), _t(_LAST), "loss.0", 0.00466),
           speaks=(_t({**_LAST, "loss.min_snr_gamma": 5.0}), _t({**_ZERO_V, "loss.debiased": True})),
           silent=(_t(_LAST), _t({**_V, "loss.min_snr_gamma": 5.0}))),
    proven("LK148", Same(_t({"loss.min_timestep": 600, "loss.max_timestep": 500}),
                         _t({"loss.min_timestep": 500, "loss.max_timestep": 500})),
           Same(_t({"loss.min_timestep": 600, "loss.max_timestep": 500}),
                _t({"loss.min_timestep": 500, "loss.max_timestep": 501}), of="loss.0"),
           speaks=(_t({"loss.min_timestep": 600, "loss.max_timestep": 500}), _t({"loss.min_timestep": 500, "loss.max_timestep": 500})),
           silent=(_t({"loss.min_timestep": 500, "loss.max_timestep": 501}),)),
    ignored("LK149", *_pairs(_HUBER, {"loss.huber_scale": 3.0}),
            matters=((_t({**_HUBER, "loss.huber_schedule": "constant", "loss.huber_scale": 3.0}),
                      _t({**_HUBER, "loss.huber_schedule": "constant"})),)),
    ignored("LK150", *_pairs({}, {"loss.huber_c": 0.5}, {"loss.huber_scale": 3.0}, {"loss.huber_schedule": "constant"}),
            *_pairs({"loss.type": "l1"}, {"loss.huber_c": 0.5}),
            matters=((_t({**_HUBER, "loss.huber_c": 0.5}), _t(_HUBER)),)),
    ignored("LK151", *_pairs({}, {"loss.masked": True})),
)  # fmt: skip

_ALL: Final = [2.0] * 23
_HALF: Final = [0.5] * 9
_LORA_PLUS: Final = {"network.loraplus_lr_ratio": 4.0}
_OFT: Final = {"network.module": "networks.oft"}
_DYLORA: Final = {"network.module": "networks.dylora", "network.unit": 1}
_LORA_FA: Final = {"network.module": "networks.lora_fa"}


def _net(**keys: Any) -> Trial:
    return _t({f"network.{key}": value for key, value in keys.items()})


_NETWORK: Final = (
    ignored("LK160", *_pairs({}, {"network.args": {"con_dim": 4}})),
    own("LK162", "lorakit's own: an argument with a key of its own is to be said by the key, where its value is checked"),
    ignored("LK163", *_pairs({}, {"network.conv_alpha": 2.0}),
            matters=((_net(conv_dim=4, conv_alpha=2.0), _net(conv_dim=4, conv_alpha=1.0)),)),
    ignored("LK164", (_net(conv_dim=4), _net(conv_dim=4, conv_alpha=1.0))),
    ignored("LK165", *_pairs({}, {"network.block_alphas": _ALL}, {"network.conv_block_dims": _ALL}),
            matters=((_net(block_dims=_ALL, block_alphas=[1.0] * 23), _net(block_dims=_ALL, block_alphas=_ALL)),)),
    refused("LK166", "AssertionError", _LATE, _net(block_dims=[2, 2, 2]), _net(block_dims=_ALL, block_alphas=[1, 1]),
            beside=(_net(block_dims=_ALL, block_alphas=_ALL),)),
    proven("LK167", Fails(_net(down_lr_weight="0.5"), "TypeError", _LATE), Fails(_net(down_lr_weight=[*_HALF, 0.5]), "TypeError", _LATE),
           Fails(_net(mid_lr_weight="cosine"), "ValueError", _LATE),
           Same(_net(down_lr_weight=[0.5, 0.5]), _net(down_lr_weight=[0.5, 0.5, 1, 1, 1, 1, 1, 1, 1])),
           Differs(_net(down_lr_weight=_HALF), _PLAIN), Differs(_net(up_lr_weight="cosine"), _PLAIN),
           speaks=(_net(down_lr_weight="0.5"), _net(down_lr_weight=[*_HALF, 0.5]), _net(down_lr_weight=[0.5, 0.5]),
                   _net(mid_lr_weight="cosine")),
           silent=(_net(down_lr_weight=_HALF), _net(up_lr_weight="cosine"))),
    refused("LK168", "TypeError", _LATE, _net(dim_from_weights=True), beside=(_t({**_LORA, "network.dim_from_weights": True}, "lora"),)),
    ignored("LK169", *_pairs({**_LORA, "network.dim_from_weights": True}, {"network.dropout": 0.5}, {"network.rank_dropout": 0.5},
                             {"network.module_dropout": 0.5}, {"network.conv_dim": 4}, _LORA_PLUS, scene="lora"),
            matters=tuple((trial, _PLAIN) for trial in (_net(dropout=0.5), _net(rank_dropout=0.5), _net(module_dropout=0.5),
                                                        _t(_LORA_PLUS)))),
    own("LK170", "of a module that lorakit does not know; that the trainer leaves max_norm off where a network cannot do it is here",
        Same(_t({**_OFT, "network.max_norm": 0.001}), _t(_OFT)), Same(_t({**_DYLORA, "network.max_norm": 0.001}), _t(_DYLORA)),
        Differs(_net(max_norm=1e-6), _PLAIN)),
    ignored("LK171", *_pairs({}, {"network.unit": 1}, {"network.enable_conv": True}, {"network.algo": "loha"}, {"network.factor": 4}),
            *_pairs(_OFT, {"network.max_norm": 0.001}, {"network.conv_dim": 4}, {"network.dropout": 0.5}, _LORA_PLUS),
            *_pairs(_DYLORA, {"network.max_norm": 0.001}, {"network.rank_dropout": 0.5}),
            *_pairs(_LORA_FA, {"network.block_alphas": _ALL}, {"network.unit": 1}),
            matters=((_t({**_OFT, "network.enable_conv": True}), _t(_OFT)),
                     (_t({**_LORA_FA, "network.rank_dropout": 0.5}), _t(_LORA_FA)),
                     (_t({**_DYLORA, "network.unit": 2}), _t(_DYLORA)))),
    refused("LK172", "AssertionError", _LATE, _t({**_DYLORA, "network.dim": 4, "network.unit": 3}),
            beside=(_t({**_DYLORA, "network.dim": 4, "network.unit": 2}),)),
    proven("LK173", Shows(_t({**_OFT, **_TE}), "modules.te1", 0), Shows(_t({**_OFT, **_TE}), "modules.te2", 0),
           Shows(_t({**_DYLORA, **_TE}), "modules.te1", 0), Shows(_t(_TE), "modules.te1", 72),
           speaks=(_t({**_OFT, **_TE}), _t({**_DYLORA, **_TE})), silent=(_t(_OFT), _t(_DYLORA), _t(_TE), _t({**_LORA_FA, **_TE}))),
    # The trial's layers are 64 wide.
    refused("LK174", "EinopsError", _LOOP, _t({**_OFT, "network.dim": 3}), beside=(_t(_OFT), _t({**_OFT, "network.dim": 4}))),
    refused("LK175", "ValueError", _LATE, _net(block_dims=[0] * 23),
            _net(down_lr_weight=[0] * 9, mid_lr_weight=[0] * 3, up_lr_weight=[0] * 9),
            beside=(_net(block_dims=[0] * 8 + [2] + [0] * 14), _net(down_lr_weight=[0] * 9))),
    ignored("LK176", *_pairs({}, {"network.loraplus_te_lr_ratio": 4.0}),
            *_pairs({"optim.unet_lr": 0, **_TE}, {"network.loraplus_unet_lr_ratio": 4.0}),
            matters=((_net(loraplus_unet_lr_ratio=4.0), _PLAIN), (_t({**_TE, "network.loraplus_te_lr_ratio": 4.0}), _t(_TE)))),
    refused("LK177", "AssertionError", _LATE, _t({**_DYLORA, "network.conv_dim": 4, "network.conv_alpha": 2.0}),
            beside=(_t({**_DYLORA, "network.conv_dim": 2, "network.conv_alpha": 2.0}),)),
)  # fmt: skip

_EPOCHS: Final = {"length.epochs": 3, "save.every_n_epochs": 1}
_STEPS: Final = {"length.steps": 6, "save.every_n_steps": 1}
_BOTH: Final = {**_PROMPTS, "sample.every_n_epochs": 1, "sample.every_n_steps": 1}

_RUN: Final = (
    refused("LK180", "TypeError", _LOOP, *_each({}, {"sample.at_first": True}, {"sample.every_n_steps": 1}),
            beside=(_t({**_PROMPTS, "sample.at_first": True}, "prompts"),)),
    proven("LK181", Same(_t(_PROMPTS, "prompts"), _PLAIN), Same(_t(_PROMPTS, "prompts"), _PLAIN, of="files"),
           Differs(_t({**_PROMPTS, "sample.at_first": True}, "prompts"), _PLAIN, of="files"),
           speaks=(_t(_PROMPTS, "prompts"),), silent=(_t({**_PROMPTS, "sample.at_first": True}, "prompts"), _PLAIN)),
    proven("LK182", Same(_t(_BOTH, "prompts"), _t({**_PROMPTS, "sample.every_n_epochs": 1}, "prompts"), of="files"),
           Differs(_t(_BOTH, "prompts"), _t({**_PROMPTS, "sample.every_n_steps": 1}, "prompts"), of="files"),
           speaks=(_t(_BOTH, "prompts"),),
           silent=_each(_PROMPTS, {"sample.every_n_epochs": 1}, {"sample.every_n_steps": 1}, scene="prompts")),
    refused("LK183", "UnboundLocalError", _LOOP, _t({"sample.prompts": "{folder}/prompts.md", "sample.at_first": True}, "prompts"),
            beside=(_t({**_PROMPTS, "sample.at_first": True}, "prompts"),)),
    proven("LK190", Same(_t({"save.last_n_epochs": 1}), _PLAIN, of="files"), Same(_t({"save.last_n_steps": 1}), _PLAIN, of="files"),
           *(Same(_t({**_EPOCHS, "save.last_n_epochs_state": 1}), _t(_EPOCHS), of="files"),
             Same(_t({**_STEPS, "save.last_n_steps_state": 1}), _t(_STEPS), of="files"),
             Differs(_t({**_EPOCHS, "save.last_n_epochs": 1}), _t(_EPOCHS), of="files"),
             Differs(_t({**_STEPS, "save.last_n_steps": 1}), _t(_STEPS), of="files"),
             Differs(_t({**_EPOCHS, "save.state": True, "save.last_n_epochs_state": 1}),
                     _t({**_EPOCHS, "save.state": True}), of="files")),
           speaks=(*_each({}, {"save.last_n_epochs": 1}, {"save.last_n_steps": 1}), _t({**_EPOCHS, "save.last_n_epochs_state": 1}),
                   _t({**_STEPS, "save.last_n_steps_state": 1})),
           silent=(_t({**_EPOCHS, "save.last_n_epochs": 1}), _t({**_STEPS, "save.last_n_steps": 1}),
                   _t({**_EPOCHS, "save.state": True, "save.last_n_epochs_state": 1}))),
    proven("LK191", Same(_t({"save.state": True}), _t({"save.state_on_end": True}), of="files"),
           Differs(_t({**_EPOCHS, "save.state": True}), _t({**_EPOCHS, "save.state_on_end": True}), of="files"),
           speaks=(_t({"save.state": True}),), silent=(_t({"save.state_on_end": True}), _t({**_EPOCHS, "save.state": True}))),
    proven("LK193", Shows(_t({"save.format": "ckpt"}), "files", ["rule.ckpt"]), Shows(_t({"save.format": "ckpt"}), "metadata", False),
           Shows(_PLAIN, "metadata", True),
           speaks=_each({}, {"save.format": "ckpt"}, {"save.format": "pt"})),
    proven("LK194", Shows(_t({"log.metadata": False, "log.comment": "mine"}), "comment", False),
           Shows(_t({"log.comment": "mine"}), "comment", True),
           speaks=(_t({"log.metadata": False, "log.comment": "mine"}),), silent=(_t({"log.comment": "mine"}),)),
    proven("LK200", Fails(_t({"launch.processes": 2}), "RuntimeError", _LATE), Trains(_PLAIN),
           speaks=(_t({"launch.processes": 2}),)),
    own("LK201", "of the launcher: which device a process is given is settled before the trainer starts"),
    own("LK202", "of the launcher: GPUs are given to processes by accelerate, before the trainer starts"),
)  # fmt: skip


def _extra(**options: Any) -> Trial:
    return _t({"extra": options})


_OWN_SCHEDULER: Final = {"extra": {"lr_scheduler_type": "CosineAnnealingLR", "lr_scheduler_args": ["T_max=4"]}}

_INFO: Final = {"extra": {"cache_info": True}}
_SPLIT: Final = {"validation.split": 0.5, "validation.seed": 3}
_INFO_SPLIT: Final = {**_INFO, **_SPLIT}

_EXTRA: Final = (
    refused("LK401", "SystemExit", _PARSER, _extra(no_such_option=1)),
    own("LK402", "lorakit's own: an option with a key of its own is to be said by the key"),
    own("LK403", "lorakit's own: what a run's folder must be able to rely on"),
    refused("LK404", "SystemExit", _PARSER, _extra(dataset_repeats="two"), _extra(base_weights_multiplier=["half"]),
            beside=(_extra(dataset_repeats=2),)),
    refused("LK405", "SystemExit", _PARSER, _extra(zero_stage=7), _extra(dynamo_backend="fast"), beside=(_extra(zero_stage=2),)),
    own("LK406", "lorakit's own: of a preset that says one thing twice"),
    proven("LK411", Shows(_t({"extra": {"base_weights": ["{folder}/lora.safetensors"]}}, "lora"), "modules.unet", 750),
           Shows(_t({}, "lora"), "modules.unet", 722),
           speaks=(_t({"extra": {"base_weights": ["{folder}/lora.safetensors"]}}, "lora"),), silent=(_t({}, "lora"),)),
    refused("LK412", "ValueError", _LATE, _t({**_OWN_SCHEDULER, **_WARM, "optim.schedule": "linear"}), beside=(_t(_OWN_SCHEDULER),)),
    proven("LK413", Same(_t(_OWN_SCHEDULER), _t({**_OWN_SCHEDULER, "optim.schedule": "polynomial"})),
           Differs(_t(_OWN_SCHEDULER), _PLAIN),
           speaks=_each(_OWN_SCHEDULER, {}, {"optim.schedule": "polynomial"})),
    own("LK414", "needs the package deepspeed and GPUs; without it the trainer stops"),
    ignored("LK415", *_pairs({}, {"extra": {"dynamo_backend": "eager"}})),
    proven("LK416", Fails(_t({**_CACHED, "memory.cache_latents_to_disk": True, "extra": {"skip_cache_check": True}}, "empty cache"),
                          "ValueError", _LOOP),
           Trains(_t({**_CACHED, "memory.cache_latents_to_disk": True}, "empty cache")),
           Trains(_t({**_CACHED, "memory.cache_latents_to_disk": True, "extra": {"skip_cache_check": True}})),
           speaks=(_t({**_CACHED, "memory.cache_latents_to_disk": True, "extra": {"skip_cache_check": True}}),
                   _t({**_CACHED, "memory.cache_latents_to_disk": True, "extra": {"skip_cache_check": True}}, "empty cache")),
           silent=(_t({**_CACHED, "memory.cache_latents_to_disk": True}, "empty cache"),)),
    # Where the cache is read: other captions for the pictures that are left, and the same ones where none are held out.
    proven("LK417", Differs(Trial(_INFO_SPLIT, "six", after=Trial(_INFO_SPLIT, "six")), _t(_SPLIT, "six")),
           Same(Trial(_INFO, "six", after=Trial(_INFO, "six")), _t({}, "six")),
           speaks=(Trial(_INFO_SPLIT, "six", after=Trial(_INFO_SPLIT, "six")), _t(_INFO_SPLIT, "six")), silent=(_t(_INFO, "six"), _t(_SPLIT, "six"))),
    ignored("LK418", *_pairs({}, {"extra": {"base_weights_multiplier": [0.5]}})),
)  # fmt: skip

_ON_DISK: Final = {**_CACHED, "memory.cache_latents_to_disk": True}
_TE_ON_DISK: Final = {**_TE_CACHED, "memory.cache_text_encoder_outputs_to_disk": True}
_SMALL_THEN_LARGE: Final = Trial(
    {**_ON_DISK, "dataset.resolution": 128, "dataset.bucket_max": 256}, "large", after=Trial(_ON_DISK, "large")
)
_RECAPTIONED: Final = Trial(_TE_ON_DISK, "other captions", after=Trial(_TE_ON_DISK))

#: Facts of the trainer that lorakit keeps its users out of by other means than a rule; tests/conformance/test_traps.py says which.
FACTS: Final[Mapping[str, tuple[Claim, ...]]] = {
    # Latents of 64 pixels, 8 a side, where those of 128 are asked for.
    "latents on disk are not compared with the resolution": (
        Shows(_SMALL_THEN_LARGE, "latents", [8, 8]),
        Shows(_t({**_ON_DISK, "dataset.resolution": 128, "dataset.bucket_max": 256}, "large"), "latents", [16, 16]),
    ),
    "text encoder outputs on disk are not compared with the captions": (
        Same(_RECAPTIONED, _t(_TE_ON_DISK)),
        Differs(_t(_TE_ON_DISK, "other captions"), _t(_TE_ON_DISK)),
    ),
    "captions in .txt are not read unless asked for": (
        Same(
            _t({}, "", "--caption_extension", ".caption"), _t({}, "other captions", "--caption_extension", ".caption")
        ),
        Differs(_PLAIN, _t({}, "other captions")),
    ),
    "no usable data is a success": (Nothing(_t({}, "no images")),),
    "validation pictures are trained on without a seed of their own": (
        Shows(Trial({"validation.split": 0.5}, "shapes", drop="--validation_seed"), "overlap", True),
        Shows(_t({"validation.split": 0.5}, "shapes"), "overlap", False),
    ),
    "the file is float32 unless told": (
        Shows(Trial({**_BF16, "precision.save": "bf16"}, drop="--save_precision"), "bits", 32),
        Shows(_t({**_BF16, "precision.save": "bf16"}), "bits", 16),
    ),
    "without an output folder all is lost at the end": (Fails(Trial(drop="--output_dir"), "TypeError", _LOOP),),
    "a checkpoint of a step tells the epoch before its own": (
        Shows(_t({"length.steps": 4, "save.every_n_steps": 1}), "epochs", ["0", "0", "1", "1"]),
        Shows(_t({"length.steps": 4, "save.every_n_steps": 1, "trainer.probe": True}), "epochs", ["1", "1", "2", "2"]),
    ),
    "the first rate is told as the text encoder's": (
        Shows(_ONE_STILL, "tags", ["lr/textencoder", "lr/unet"]),
        Shows(_PLAIN, "tags", ["lr/group0", "lr/unet"]),
    ),
}

_DIM: Final = {**_LORA, "network.dim_from_weights": True}

_FILES: Final = (
    refused("LK303", "TypeError", _EARLY, _t({"base.tokenizer_cache": "{folder}/none"})),
    ignored("LK312", (_t(_LORA, "lora of another"), _t({}, "lora of another")),
            matters=((_t(_LORA, "lora"), _t({}, "lora")),)),
    refused("LK313", "RuntimeError", _LATE, _t(_LORA, "lora of dim 4"), beside=(_t(_LORA, "lora"), _t(_DIM, "lora of dim 4"))),
    # It trains as with the preset's alpha, 2, and writes down the file's.
    proven("LK314", Shows(_t(_LORA, "lora of alpha 1"), "alphas", [1.0, 2.0]), Shows(_t(_LORA, "lora"), "alphas", [2.0]),
           Same(_t(_LORA, "lora of alpha 1"), _t(_LORA, "lora")),
           speaks=(_t(_LORA, "lora of alpha 1"),), silent=(_t(_LORA, "lora"), _t(_DIM, "lora of alpha 1"))),
    proven("LK315", Same(_t(_LORA, "lora of te"), _t({}, "lora of te")), Shows(_t(_LORA, "lora of te"), "modules.te1", 0),
           Differs(_t({**_LORA, **_TE}, "lora of te"), _t(_TE)),
           speaks=(_t(_LORA, "lora of te"),), silent=(_t({**_LORA, **_TE}, "lora of te"),)),
    proven("LK322", Fails(_t({**_PROMPTS, "sample.at_first": True}, "torn prompts"), "UnicodeDecodeError", _LOOP),
           Shows(_t({**_PROMPTS, "sample.at_first": True}, "no prompts"), "files", ["rule.safetensors", "sample"]),
           speaks=_each({**_PROMPTS, "sample.at_first": True}, {}, scene="torn prompts")
           + _each({**_PROMPTS, "sample.at_first": True}, {}, scene="no prompts"),
           silent=(_t({**_PROMPTS, "sample.at_first": True}, "prompts"),)),
    refused("LK323", "RuntimeError", _LOOP, _t({**_PROMPTS, "sample.at_first": True}, "odd prompts"),
            beside=(_t({**_PROMPTS, "sample.at_first": True}, "prompts"),)),
    proven("LK341", Fails(_t({**_TOML, **_TE_CACHED}, "toml shuffles"), "AssertionError", _EARLY),
           Same(_t({**_TOML, **_TE_CACHED}, "toml prefixes"), _t({**_TOML, **_TE_CACHED}, "toml")),
           Trains(_t(_TOML, "toml shuffles")),
           speaks=(_t({**_TOML, **_TE_CACHED}, "toml shuffles"), _t({**_TOML, **_TE_CACHED}, "toml prefixes")),
           silent=(_t({**_TOML, **_TE_CACHED}, "toml"), _t(_TOML, "toml shuffles"))),
    refused("LK342", "AssertionError", _EARLY, _t({**_TOML, **_CACHED}, "toml colours"),
            beside=(_t({**_TOML, **_CACHED}, "toml"), _t(_TOML, "toml colours"))),
)  # fmt: skip

_TRAINERS: Final = (
    own("LK501", "of the built-in trainer: what it implements is held by tests/trainers/builtin"),
    own("LK502", "of the built-in trainer: what changes nothing there is held by tests/trainers/builtin"),
    own("LK511", "two catalogues compared; that the parser stops at an option it does not have is here",
        Fails(_extra(no_such_option=1), "SystemExit", _PARSER)),
    own("LK512", "two catalogues compared; that the parser stops at a value it does not take is here",
        Fails(_extra(zero_stage=7), "SystemExit", _PARSER)),
    own("LK513", "lorakit's own: its catalogue is of another commit"),
    own("LK514", "lorakit's own: what git says of the checkout"),
    own("LK515", "what is in the trainer's environment; that it fails to import what is not there is here",
        Fails(_t({"network.module": "no_such.network"}), "ModuleNotFoundError", _LATE)),
)  # fmt: skip

PROOFS: Final[Mapping[str, Proof]] = {
    proof.code: proof
    for proofs in (
        _MODEL, _TRAINED, _DATASET, _OPTIM, _LOSS, _NETWORK, _RUN, _EXTRA, _FILES, _TRAINERS,
    )
    for proof in proofs
}  # fmt: skip
_CLAIMS: Final = (*(proof.claims for proof in PROOFS.values()), *FACTS.values())
TRIALS: Final[Mapping[str, Trial]] = {
    trial.name: trial for claims in _CLAIMS for claim in claims for trial in claim.trials
}
