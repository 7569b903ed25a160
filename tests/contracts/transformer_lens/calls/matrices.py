"""Products of matrices that are kept in factors."""

from tests.contracts.transformer_lens.call import Call

CALLS = [
    Call("model.OV.eigenvalues.abs().sum(-1)", "M"),
    Call("model.OV.svd()[1]", "M"),
    Call("model.OV.S", "M"),
    Call("model.OV.norm()", "M"),
    Call("model.OV.shape", "M"),
    Call("model.OV.ndim"),
    Call("model.OV.T.AB"),
    Call("model.OV[0].AB"),
    Call("model.OV[1, 2, :4].AB", "M"),
    Call("model.OV[:, 1:3].AB"),
    Call("model.OV.AB", "M"),
    Call("model.OV.BA"),
    Call("model.OV.pair"),
    Call("model.OV.collapse_l().norm()"),
    Call("model.OV.collapse_r().norm()"),
    Call("model.OV.make_even().AB"),
    Call("model.OV.get_corner(2)", "M"),
    Call("model.OV.unsqueeze(0).shape"),
    Call("(model.OV[0, 1] @ model.OV[1, 2]).AB", "M"),
    Call("(model.OV @ torch.eye(model.cfg.d_model)).AB"),
    Call("(torch.ones(model.cfg.d_model) @ model.OV[0, 1])"),
    Call("(model.OV * 2).AB"),
    Call("(model.embed.W_E @ model.OV @ model.unembed.W_U)[1, 2].AB", "M"),
    Call("(model.embed.W_E @ model.OV @ model.unembed.W_U).eigenvalues.abs().sum(-1)", "M"),
    Call("FactoredMatrix(model.W_Q, model.W_Q.transpose(-2, -1)).AB", "M"),
    Call("(model.OV @ model.QK).AB"),
    Call("utils.composition_scores(model.OV[0], model.QK[1], broadcast_dims=False)"),
    Call("utils.get_corner(model.OV.AB, 2)", "M"),
]
