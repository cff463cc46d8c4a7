// The matrix position of every element of every lane's fragment, transcribed from the tables of the PTX ISA ("Matrix
// Fragments for mma.m16n8k256", ".m16n8k128" and ".m16n8k32"). group: groupID = lane >> 2; thread: threadID_in_group =
// lane % 4; i: index of the element in the lane's fragment.
#pragma once

struct Position {
    int row, column;
};

// m16n8k256 .b1: A has four registers of 32 elements, B two, C four integers.
inline Position a_b1_k256(int lane, int i) {
    const int group = lane >> 2, thread = lane % 4;
    const int row = (i < 32 || (i >= 64 && i < 96)) ? group : group + 8;
    return {row, i < 64 ? thread * 32 + (i & 0x1f) : thread * 32 + (i & 0x1f) + 128};
}
inline Position b_b1_k256(int lane, int i) {
    const int group = lane >> 2, thread = lane % 4;
    return {i < 32 ? thread * 32 + (i & 0x1f) : thread * 32 + (i & 0x1f) + 128, group};
}

// m16n8k128 .b1: A two registers, B one.
inline Position a_b1_k128(int lane, int i) {
    const int group = lane >> 2, thread = lane % 4;
    return {i < 32 ? group : group + 8, thread * 32 + (i & 0x1f)};
}
inline Position b_b1_k128(int lane, int i) { return {lane % 4 * 32 + i, lane >> 2}; }

// m16n8k32 .u8: A four registers of four bytes, B two.
inline Position a_u8_k32(int lane, int i) {
    const int group = lane >> 2, thread = lane % 4;
    const int row = (i < 4 || (i >= 8 && i < 12)) ? group : group + 8;
    return {row, i < 8 ? thread * 4 + (i & 0x3) : thread * 4 + (i & 0x3) + 16};
}
inline Position b_u8_k32(int lane, int i) {
    const int group = lane >> 2, thread = lane % 4;
    return {i < 4 ? thread * 4 + (i & 0x3) : thread * 4 + (i & 0x3) + 16, group};
}

// C and D of all three: four integers.
inline Position c_s32(int lane, int i) {
    const int group = lane >> 2, thread = lane % 4;
    return {i < 2 ? group : group + 8, thread * 2 + (i & 0x1)};
}
