"""Chat templates that render turns as the checkpoints' own do, quirks included: what they refuse, and what they lose.

Written anew after what they render; where the real ones read `content` as a list of parts alone (LLaVA, Idefics), these do too.
"""

_ONLY = "{%% for part in message.content if part.type == '%s' %%}"
_TEXTS = _ONLY % "text"

#: `USER: <image>\\nWhat? ASSISTANT:`; pictures first, a blank behind every text; lists of parts alone.
LLAVA = (
    "{% for message in messages %}{% if message.role != 'system' %}{{ message.role | upper }}: {% endif %}"
    + (_ONLY % "image")
    + "{{ '<image>\n' }}{% endfor %}"
    + _TEXTS
    + "{{ part.text }} {% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)

#: `[INST] <image>\\nWhat? [/INST]`; a system turn in marks of its own.
LLAVA_NEXT = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ '<<SYS>>\n' + message.content[0].text + '\n<</SYS>>\n\n' }}"
    "{% elif message.role == 'user' %}[INST] "
    + (_ONLY % "image")
    + "{{ '<image>\n' }}{% endfor %}"
    + _TEXTS
    + "{{ part.text }}{% endfor %} [/INST]"
    "{% elif message.role == 'assistant' %}" + _TEXTS + " {{ part.text }}</s>{% endfor %}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)

#: `<|im_start|>user <image>\\nWhat?<|im_end|><|im_start|>assistant\\n`; lists of parts alone.
ONEVISION = (
    "{% for message in messages %}<|im_start|>{{ message.role }} "
    + (_ONLY % "image")
    + "<image>{% endfor %}"
    + (_ONLY % "video")
    + "<video>{% endfor %}"
    + _TEXTS
    + "{{ '\n' + part.text }}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_CHATML = (
    "{%% for message in messages %%}%s{{ '<|im_start|>' + message.role + '\n' }}{%% if message.content is string %%}"
    "{{ message.content }}{%% else %%}{%% for part in message.content %%}{%% if part.type == 'image' %%}%s"
    "{%% elif part.type == 'video' %%}%s{%% else %%}{{ part.text }}{%% endif %%}{%% endfor %%}{%% endif %%}"
    "{{ '<|im_end|>\n' }}{%% endfor %%}{%% if add_generation_prompt %%}{{ '<|im_start|>assistant\n' }}{%% endif %%}"
)
_DEFAULT_SYSTEM = (
    "{% if loop.first and message.role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
)
_SEEN = "<|vision_start|><|%s_pad|><|vision_end|>"
#: A system turn of its own if the chat has none.
QWEN2_VL = _CHATML % (_DEFAULT_SYSTEM, _SEEN % "image", _SEEN % "video")
#: The same without it.
QWEN3_VL = _CHATML % ("", _SEEN % "image", _SEEN % "video")
INTERNVL = _CHATML % ("", "{{ '<IMG_CONTEXT>\n' }}", "{{ '<video>\n' }}")

#: The system turn goes into the first user turn; turns have to alternate; texts lose the blanks around them.
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% if messages[0].content is string %}"
    "{% set first = messages[0].content + '\n\n' %}{% else %}{% set first = messages[0].content[0].text + '\n\n' %}{% endif %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\n' + (first if loop.first else '') }}"
    "{% if message.content is string %}{{ message.content | trim }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<start_of_image>{% elif part.type == 'text' %}{{ part.text | trim }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)

#: `User:<image>What?<end_of_utterance>\\nAssistant:`; a blank behind the role unless a picture comes first; lists alone.
IDEFICS = (
    "{{ opening }}{% for message in messages %}{{ message.role | capitalize }}"
    "{% if message.content[0].type == 'image' %}:{% else %}{{ ': ' }}{% endif %}{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% elif part.type == 'image' %}<image>{% endif %}{% endfor %}"
    "{{ '<end_of_utterance>\n' }}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)

#: Headers around roles; a system turn is not taken together with a picture.
MLLAMA = (
    "{{ bos_token }}{% set seen = namespace(image=false) %}{% for message in messages if message.content is not string %}"
    "{% for part in message.content if part.type == 'image' %}{% set seen.image = true %}{% endfor %}{% endfor %}"
    "{% for message in messages %}{% if message.role == 'system' and seen.image %}"
    "{{ raise_exception('Prompting with images is incompatible with system messages.') }}{% endif %}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}{% if message.content is string %}"
    "{{ message.content }}{% else %}{% for part in message.content %}{% if part.type == 'image' %}<|image|>{% else %}"
    "{{ part.text }}{% endif %}{% endfor %}{% endif %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
