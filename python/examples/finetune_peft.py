import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from lora_kernels.peft import accelerate

config = LlamaConfig(vocab_size=64, hidden_size=64, intermediate_size=96, num_hidden_layers=1)
model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=8, target_modules="all-linear"))
print(accelerate(model.to("cuda" if torch.cuda.is_available() else "cpu")))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
for ids in torch.randint(64, (3, 2, 8)).to(model.device):
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward(), optimizer.step(), optimizer.zero_grad()
    print("loss", loss.item())
