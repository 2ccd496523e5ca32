; The mask of a record keeps 32 codes, and there is one.
; expect: bad-record in launch 0 (kernel copy), instruction 0 `ldx b0+:v2, v0, code=rows` of FI.load: block 0 of tensor r0: a record of 3 bytes, its mask gives 34 [/layer/Copy]
object "ldx-record" target "mtia-300" hbm 512 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 in bytes 12 planes 0 12 4
  tensor r1 out bytes 512 planes 0 512 512
  buffer b0 "x" local 512 x 1
  view v0 u8 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 512:1<512)
  view v1 u8 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 512:1<512)
  view v2 u8 local k4 offset 0 (1:512, 1:512, 1:512, 1:512, 512:1)
  code:
    ldx b0+:v2, v0, code=rows
    st b0-:v2, v1
    halt
}

entry e0 "main" {
  output "y" u8 (512) hbm:0
  launch #0 k0 (weights:0, hbm:0) o0
  code:
    launch #0
    halt
}

weights 12 {
  010007000000000003000000
}
